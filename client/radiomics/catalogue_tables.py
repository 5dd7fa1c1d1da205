"""The entries of the catalogue as tables, read once by ``catalogue``."""

IBSI_TABLE = """
morph volume               RNU0  3.1.1   mm3    Volume (mesh)
morph vol_approx           YEKZ  3.1.2   mm3    Volume (voxel counting)
morph area_mesh            C0JK  3.1.3   mm2    Surface area (mesh)
morph av                   2PR5  3.1.4   1/mm   Surface to volume ratio
morph comp_1               SKGS  3.1.5   1      Compactness 1
morph comp_2               BQWJ  3.1.6   1      Compactness 2
morph sph_dispr            KRCK  3.1.7   1      Spherical disproportion
morph sphericity           QCFX  3.1.8   1      Sphericity
morph asphericity          25C7  3.1.9   1      Asphericity
morph com                  KLMA  3.1.10  mm     Centre of mass shift
morph diam                 L0JK  3.1.11  mm     Maximum 3D diameter
morph pca_maj_axis         TDIC  3.1.12  mm     Major axis length
morph pca_min_axis         P9VJ  3.1.13  mm     Minor axis length
morph pca_least_axis       7J51  3.1.14  mm     Least axis length
morph pca_elongation       Q3CK  3.1.15  1      Elongation
morph pca_flatness         N17B  3.1.16  1      Flatness
morph vol_dens_aabb        PBX1  3.1.17  1      Volume density (AABB)
morph area_dens_aabb       R59B  3.1.18  1      Area density (AABB)
morph vol_dens_aee         6BDE  3.1.21  1      Volume density (AEE)
morph area_dens_aee        RDD2  3.1.22  1      Area density (AEE)
morph vol_dens_conv_hull   R3ER  3.1.25  1      Volume density (convex hull)
morph area_dens_conv_hull  7T7F  3.1.26  1      Area density (convex hull)
morph integ_int            99N0  3.1.27  I mm3  Integrated intensity
morph moran_i              N365  3.1.28  1      Moran's I index
morph geary_c              NPT7  3.1.29  1      Geary's C measure
loc   peak_loc             VJGA  3.2.1   I      Local intensity peak
loc   peak_glob            0F91  3.2.2   I      Global intensity peak
stat  mean                 Q4LE  3.3.1   I      Mean
stat  var                  ECT3  3.3.2   I2     Variance
stat  skew                 KE2A  3.3.3   1      Skewness
stat  kurt                 IPH6  3.3.4   1      (Excess) kurtosis
stat  median               Y12H  3.3.5   I      Median
stat  min                  1GSF  3.3.6   I      Minimum
stat  p10                  QG58  3.3.7   I      10th percentile
stat  p90                  8DWT  3.3.8   I      90th percentile
stat  max                  84IY  3.3.9   I      Maximum
stat  iqr                  SALO  3.3.10  I      Interquartile range
stat  range                2OJQ  3.3.11  I      Range
stat  mad                  4FUA  3.3.12  I      Mean absolute deviation
stat  rmad                 1128  3.3.13  I      Robust mean absolute deviation
stat  medad                N72L  3.3.14  I      Median absolute deviation
stat  cov                  7TET  3.3.15  1      Coefficient of variation
stat  qcod                 9S40  3.3.16  1      Quartile coefficient of dispersion
stat  energy               N8CA  3.3.17  I2     Energy
stat  rms                  5ZWQ  3.3.18  I      Root mean square
ih    mean                 X6K6  3.4.1   1      Mean
ih    var                  CH89  3.4.2   1      Variance
ih    skew                 88K1  3.4.3   1      Skewness
ih    kurt                 C3I7  3.4.4   1      (Excess) kurtosis
ih    median               WIFQ  3.4.5   1      Median
ih    min                  1PR8  3.4.6   1      Minimum
ih    p10                  GPMT  3.4.7   1      10th percentile
ih    p90                  OZ0C  3.4.8   1      90th percentile
ih    max                  3NCY  3.4.9   1      Maximum
ih    mode                 AMMC  3.4.10  1      Mode
ih    iqr                  WR0O  3.4.11  1      Interquartile range
ih    range                5Z3W  3.4.12  1      Range
ih    mad                  D2ZX  3.4.13  1      Mean absolute deviation
ih    rmad                 WRZB  3.4.14  1      Robust mean absolute deviation
ih    medad                4RNL  3.4.15  1      Median absolute deviation
ih    cov                  CWYJ  3.4.16  1      Coefficient of variation
ih    qcod                 SLWD  3.4.17  1      Quartile coefficient of dispersion
ih    entropy              TLU2  3.4.18  1      Entropy
ih    uniformity           BJ5W  3.4.19  1      Uniformity
ih    max_grad             12CE  3.4.20  1      Maximum histogram gradient
ih    max_grad_g           8E6O  3.4.21  1      Maximum histogram gradient intensity
ih    min_grad             VQB3  3.4.22  1      Minimum histogram gradient
ih    min_grad_g           RHQZ  3.4.23  1      Minimum histogram gradient intensity
ivh   v10                  BC2M  3.5.1   1      Volume fraction at 10% intensity
ivh   v90                  BC2M  3.5.1   1      Volume fraction at 90% intensity
ivh   i10                  GBPN  3.5.2   I      Intensity at 10% volume
ivh   i90                  GBPN  3.5.2   I      Intensity at 90% volume
ivh   diff_v10_v90         DDTU  3.5.3   1      Volume fraction difference between 10% and 90% intensity
ivh   diff_i10_i90         CNV2  3.5.4   I      Intensity difference between 10% and 90% volume
cm    joint_max            GYBY  3.6.1   1      Joint maximum
cm    joint_avg            60VM  3.6.2   1      Joint average
cm    joint_var            UR99  3.6.3   1      Joint variance
cm    joint_entr           TU9B  3.6.4   1      Joint entropy
cm    diff_avg             TF7R  3.6.5   1      Difference average
cm    diff_var             D3YU  3.6.6   1      Difference variance
cm    diff_entr            NTRS  3.6.7   1      Difference entropy
cm    sum_avg              ZGXS  3.6.8   1      Sum average
cm    sum_var              OEEB  3.6.9   1      Sum variance
cm    sum_entr             P6QZ  3.6.10  1      Sum entropy
cm    energy               8ZQL  3.6.11  1      Angular second moment
cm    contrast             ACUI  3.6.12  1      Contrast
cm    dissimilarity        8S9J  3.6.13  1      Dissimilarity
cm    inv_diff             IB1Z  3.6.14  1      Inverse difference
cm    inv_diff_norm        NDRX  3.6.15  1      Normalised inverse difference
cm    inv_diff_mom         WF0Z  3.6.16  1      Inverse difference moment
cm    inv_diff_mom_norm    1QCO  3.6.17  1      Normalised inverse difference moment
cm    inv_var              E8JP  3.6.18  1      Inverse variance
cm    corr                 NI2N  3.6.19  1      Correlation
cm    auto_corr            QWB0  3.6.20  1      Autocorrelation
cm    clust_tend           DG8W  3.6.21  1      Cluster tendency
cm    clust_shade          7NFM  3.6.22  1      Cluster shade
cm    clust_prom           AE86  3.6.23  1      Cluster prominence
cm    info_corr1           R8DG  3.6.24  1      Information correlation 1
cm    info_corr2           JN9H  3.6.25  1      Information correlation 2
rlm   sre                  22OV  3.7.1   1      Short runs emphasis
rlm   lre                  W4KF  3.7.2   1      Long runs emphasis
rlm   lgre                 V3SW  3.7.3   1      Low grey level run emphasis
rlm   hgre                 G3QZ  3.7.4   1      High grey level run emphasis
rlm   srlge                HTZT  3.7.5   1      Short run low grey level emphasis
rlm   srhge                GD3A  3.7.6   1      Short run high grey level emphasis
rlm   lrlge                IVPO  3.7.7   1      Long run low grey level emphasis
rlm   lrhge                3KUM  3.7.8   1      Long run high grey level emphasis
rlm   glnu                 R5YN  3.7.9   1      Grey level non-uniformity
rlm   glnu_norm            OVBL  3.7.10  1      Normalised grey level non-uniformity
rlm   rlnu                 W92Y  3.7.11  1      Run length non-uniformity
rlm   rlnu_norm            IC23  3.7.12  1      Normalised run length non-uniformity
rlm   r_perc               9ZK5  3.7.13  1      Run percentage
rlm   gl_var               8CE5  3.7.14  1      Grey level variance
rlm   rl_var               SXLW  3.7.15  1      Run length variance
rlm   rl_entr              HJ9O  3.7.16  1      Run entropy
szm   sze                  5QRC  3.8.1   1      Small zone emphasis
szm   lze                  48P8  3.8.2   1      Large zone emphasis
szm   lgze                 XMSY  3.8.3   1      Low grey level emphasis
szm   hgze                 5GN9  3.8.4   1      High grey level emphasis
szm   szlge                5RAI  3.8.5   1      Small zone low grey level emphasis
szm   szhge                HW1V  3.8.6   1      Small zone high grey level emphasis
szm   lzlge                YH51  3.8.7   1      Large zone low grey level emphasis
szm   lzhge                J17V  3.8.8   1      Large zone high grey level emphasis
szm   glnu                 JNSA  3.8.9   1      Grey level non-uniformity
szm   glnu_norm            Y1RO  3.8.10  1      Normalised grey level non-uniformity
szm   zsnu                 4JP3  3.8.11  1      Zone size non-uniformity
szm   zsnu_norm            VB3A  3.8.12  1      Normalised zone size non-uniformity
szm   z_perc               P30P  3.8.13  1      Zone percentage
szm   gl_var               BYLV  3.8.14  1      Grey level variance
szm   zs_var               3NSA  3.8.15  1      Zone size variance
szm   zs_entr              GU8N  3.8.16  1      Zone size entropy
dzm   sde                  0GBI  3.9.1   1      Small distance emphasis
dzm   lde                  MB4I  3.9.2   1      Large distance emphasis
dzm   lgze                 S1RA  3.9.3   1      Low grey level emphasis
dzm   hgze                 K26C  3.9.4   1      High grey level emphasis
dzm   sdlge                RUVG  3.9.5   1      Small distance low grey level emphasis
dzm   sdhge                DKNJ  3.9.6   1      Small distance high grey level emphasis
dzm   ldlge                A7WM  3.9.7   1      Large distance low grey level emphasis
dzm   ldhge                KLTH  3.9.8   1      Large distance high grey level emphasis
dzm   glnu                 VFT7  3.9.9   1      Grey level non-uniformity
dzm   glnu_norm            7HP3  3.9.10  1      Normalised grey level non-uniformity
dzm   zdnu                 V294  3.9.11  1      Zone distance non-uniformity
dzm   zdnu_norm            IATH  3.9.12  1      Normalised zone distance non-uniformity
dzm   z_perc               VIWW  3.9.13  1      Zone percentage
dzm   gl_var               QK93  3.9.14  1      Grey level variance
dzm   zd_var               7WT1  3.9.15  1      Zone distance variance
dzm   zd_entr              GBDU  3.9.16  1      Zone distance entropy
ngt   coarseness           QCDE  3.10.1  1      Coarseness
ngt   contrast             65HE  3.10.2  1      Contrast
ngt   busyness             NQ30  3.10.3  1      Busyness
ngt   complexity           HDEZ  3.10.4  1      Complexity
ngt   strength             1X9X  3.10.5  1      Strength
ngl   lde                  SODN  3.11.1  1      Low dependence emphasis
ngl   hde                  IMOQ  3.11.2  1      High dependence emphasis
ngl   lgce                 TL9H  3.11.3  1      Low grey level count emphasis
ngl   hgce                 OAE7  3.11.4  1      High grey level count emphasis
ngl   ldlge                EQ3F  3.11.5  1      Low dependence low grey level emphasis
ngl   ldhge                JA6D  3.11.6  1      Low dependence high grey level emphasis
ngl   hdlge                NBZI  3.11.7  1      High dependence low grey level emphasis
ngl   hdhge                9QMG  3.11.8  1      High dependence high grey level emphasis
ngl   glnu                 FP8K  3.11.9  1      Grey level non-uniformity
ngl   glnu_norm            5SPA  3.11.10 1      Normalised grey level non-uniformity
ngl   dcnu                 Z87G  3.11.11 1      Dependence count non-uniformity
ngl   dcnu_norm            OKJI  3.11.12 1      Normalised dependence count non-uniformity
ngl   dc_perc              6XV8  3.11.13 1      Dependence count percentage
ngl   gl_var               1PFV  3.11.14 1      Grey level variance
ngl   dc_var               DNX2  3.11.15 1      Dependence count variance
ngl   dc_entr              FCBV  3.11.16 1      Dependence count entropy
ngl   dc_energy            CAS9  3.11.17 1      Dependence count energy
"""
"""Family, key, IBSI code, section of the IBSI reference manual (arXiv 1612.07003), unit, title."""

PYRADIOMICS_TABLE = {
    "shape": """
        Elongation=morph_pca_elongation Flatness=morph_pca_flatness LeastAxisLength:mm MajorAxisLength:mm
        Maximum2DDiameterColumn:mm Maximum2DDiameterRow:mm Maximum2DDiameterSlice:mm Maximum3DDiameter=morph_diam
        MeshVolume=morph_volume MinorAxisLength:mm Sphericity=morph_sphericity SurfaceArea=morph_area_mesh
        SurfaceVolumeRatio=morph_av VoxelVolume=morph_vol_approx""",
    "firstorder": """
        10Percentile=stat_p10 90Percentile=stat_p90 Energy=stat_energy Entropy=ih_entropy InterquartileRange=stat_iqr
        Kurtosis:1 Maximum=stat_max Mean=stat_mean MeanAbsoluteDeviation=stat_mad Median=stat_median Minimum=stat_min
        Range=stat_range RobustMeanAbsoluteDeviation=stat_rmad RootMeanSquared=stat_rms Skewness=stat_skew
        TotalEnergy:I2_mm3 Uniformity=ih_uniformity Variance=stat_var""",
    "glcm": """
        Autocorrelation=cm_auto_corr ClusterProminence=cm_clust_prom ClusterShade=cm_clust_shade
        ClusterTendency=cm_clust_tend Contrast=cm_contrast Correlation=cm_corr DifferenceAverage=cm_diff_avg
        DifferenceEntropy=cm_diff_entr DifferenceVariance=cm_diff_var Id=cm_inv_diff Idm=cm_inv_diff_mom
        Idmn=cm_inv_diff_mom_norm Idn=cm_inv_diff_norm Imc1=cm_info_corr1 Imc2=cm_info_corr2
        InverseVariance=cm_inv_var JointAverage=cm_joint_avg JointEnergy=cm_energy JointEntropy=cm_joint_entr MCC:1
        MaximumProbability=cm_joint_max SumAverage=cm_sum_avg SumEntropy=cm_sum_entr SumSquares=cm_joint_var""",
    "gldm": """
        DependenceEntropy=ngl_dc_entr DependenceNonUniformity=ngl_dcnu DependenceNonUniformityNormalized=ngl_dcnu_norm
        DependenceVariance=ngl_dc_var GrayLevelNonUniformity=ngl_glnu GrayLevelVariance=ngl_gl_var
        HighGrayLevelEmphasis=ngl_hgce LargeDependenceEmphasis=ngl_hde
        LargeDependenceHighGrayLevelEmphasis=ngl_hdhge LargeDependenceLowGrayLevelEmphasis=ngl_hdlge
        LowGrayLevelEmphasis=ngl_lgce SmallDependenceEmphasis=ngl_lde
        SmallDependenceHighGrayLevelEmphasis=ngl_ldhge SmallDependenceLowGrayLevelEmphasis=ngl_ldlge""",
    "glrlm": """
        GrayLevelNonUniformity=rlm_glnu GrayLevelNonUniformityNormalized=rlm_glnu_norm GrayLevelVariance=rlm_gl_var
        HighGrayLevelRunEmphasis=rlm_hgre LongRunEmphasis=rlm_lre LongRunHighGrayLevelEmphasis=rlm_lrhge
        LongRunLowGrayLevelEmphasis=rlm_lrlge LowGrayLevelRunEmphasis=rlm_lgre RunEntropy=rlm_rl_entr
        RunLengthNonUniformity=rlm_rlnu RunLengthNonUniformityNormalized=rlm_rlnu_norm RunPercentage=rlm_r_perc
        RunVariance=rlm_rl_var ShortRunEmphasis=rlm_sre ShortRunHighGrayLevelEmphasis=rlm_srhge
        ShortRunLowGrayLevelEmphasis=rlm_srlge""",
    "glszm": """
        GrayLevelNonUniformity=szm_glnu GrayLevelNonUniformityNormalized=szm_glnu_norm GrayLevelVariance=szm_gl_var
        HighGrayLevelZoneEmphasis=szm_hgze LargeAreaEmphasis=szm_lze LargeAreaHighGrayLevelEmphasis=szm_lzhge
        LargeAreaLowGrayLevelEmphasis=szm_lzlge LowGrayLevelZoneEmphasis=szm_lgze SizeZoneNonUniformity=szm_zsnu
        SizeZoneNonUniformityNormalized=szm_zsnu_norm SmallAreaEmphasis=szm_sze
        SmallAreaHighGrayLevelEmphasis=szm_szhge SmallAreaLowGrayLevelEmphasis=szm_szlge ZoneEntropy=szm_zs_entr
        ZonePercentage=szm_z_perc ZoneVariance=szm_zs_var""",
    "ngtdm": """
        Busyness=ngt_busyness Coarseness=ngt_coarseness Complexity=ngt_complexity Contrast=ngt_contrast
        Strength=ngt_strength""",
}
"""pyradiomics' names, each with the IBSI tag of its formula, or with its unit where IBSI has no such formula."""
